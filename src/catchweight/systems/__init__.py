"""Published systems: what each is made of here, what it claims, and the check that shows it.

A new system is one file that defines ``SYSTEM`` and one line in ``SYSTEMS``.
"""

from __future__ import annotations

from . import (
    deep_thin,
    distillation,
    dpc,
    dpn,
    efficientdet,
    efficientnet,
    efficientnet_lite,
    eseg,
    fasterseg,
    ffnet,
    halp,
    mgd,
    nf_resnet,
    preact_resnet,
    pvt_v2,
    res2net,
    resnet,
    resnet_rs,
    resnext,
    vovnet,
)
from .result import CheckResult, Condition, Verdict, latest
from .runner import CHECKS, run_check, system_named, table
from .system import CheckContext, System

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        eseg.SYSTEM,
        ffnet.SYSTEM,
        fasterseg.SYSTEM,
        halp.SYSTEM,
        dpc.SYSTEM,
        resnet.SYSTEM,
        preact_resnet.SYSTEM,
        resnext.SYSTEM,
        res2net.SYSTEM,
        dpn.SYSTEM,
        vovnet.SYSTEM,
        efficientnet.SYSTEM,
        efficientnet_lite.SYSTEM,
        resnet_rs.SYSTEM,
        nf_resnet.SYSTEM,
        pvt_v2.SYSTEM,
        efficientdet.SYSTEM,
        distillation.SYSTEM,
        deep_thin.SYSTEM,
        mgd.SYSTEM,
    )
}

__all__ = [
    "CHECKS",
    "SYSTEMS",
    "CheckContext",
    "CheckResult",
    "Condition",
    "System",
    "Verdict",
    "latest",
    "run_check",
    "system_named",
    "table",
]

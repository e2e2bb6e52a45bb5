"""Readers, one file a format. To add one: write ``<format>.py`` with a Reader and give it a line here."""

from __future__ import annotations

from . import camvid, cityscapes, coco, folder, voc, yolo
from .layout import Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        folder.READER,
        camvid.READER,
        cityscapes.READER,
        voc.READER,
        coco.INSTANCES,
        coco.PANOPTIC,
        yolo.READER,
    )
}
"""Every format by the name a user gives; the order is the one in messages."""

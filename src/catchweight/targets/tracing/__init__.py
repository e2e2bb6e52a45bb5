"""What a network computes: its export, its operators, its fused blocks, its live tensors."""

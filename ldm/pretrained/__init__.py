"""Networks with public weights, frozen: EfficientNet-Lite (features and taps) and LPIPS."""

"""What our tests and those of experiment authors share: tiny data, tiny models."""

"""The character device: its CUSE_INIT, and every request of it."""

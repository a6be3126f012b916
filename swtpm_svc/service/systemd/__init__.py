"""What is asked of systemd and udev, and told to them: sd_notify(3), the journal, udev's properties."""

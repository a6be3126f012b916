"""The administrator's command, vtpmctl(8)."""

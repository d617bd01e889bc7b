"""Pure brains: functions from (desired, observed) to what must be done. No I/O, no clock."""

"""Jobs, schedules, sensors and alert sensors."""

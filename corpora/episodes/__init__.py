"""Robot data: episodes of LeRobot and RLDS datasets, read and written."""

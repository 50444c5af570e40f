"""What other detectors found: GuardDuty, Security Hub and whatever writes OCSF, read and joined to log records."""

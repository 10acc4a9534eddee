"""What is on the disk: records, checksums, what was delivered, how a study stands."""

"""The installer: from a medium to a disk that starts skerry, unattended or with a person."""

"""What hosts talk to: enrol, sync, renew, content. Every answer is signed, refusals too."""

"""What every long run needs: its plan, its lock, its ranks, its appended records, the versions that matter."""

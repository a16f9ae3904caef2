"""The model volume: trees, markers, staging and trash, safe against kills and full disks."""

"""When the next pass, write or Event may happen."""

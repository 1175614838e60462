"""Records of calls: everything that a call reports, in memory and in the store."""

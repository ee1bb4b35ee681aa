"""Claims: each statement of a paper beside what was measured, with a verdict decided from an interval."""

"""Pure values: kinds, conditions, selectors, templates, validation. No I/O, no clock."""

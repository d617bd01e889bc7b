"""One module per part of the console. A page reads through services and shows a template."""

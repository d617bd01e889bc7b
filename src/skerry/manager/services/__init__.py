"""The verbs. Whatever API, console or channel want done is a function here, and each checks
whether its caller may, so that no route can forget it."""

"""The manager: store, services, sign-in, REST API, host channel, reconcilers."""

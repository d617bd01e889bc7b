"""REST over the verbs: routes per kind, problem documents, watch streams, OpenAPI."""

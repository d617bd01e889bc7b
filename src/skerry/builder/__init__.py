"""Makes artifacts: Kubernetes releases, example images, the agent's archive.

The builder may write the disk directly (pathlib), but every program runs through a passed-in
Runner. What it builds is named by the content that went in, so nothing is built twice.
"""

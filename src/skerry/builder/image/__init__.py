"""OS images: the steps of `skerry.plan.image`, carried out with one tool each."""

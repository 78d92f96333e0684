"""The routes, by who calls them. Each module's `router` takes the service that it serves."""

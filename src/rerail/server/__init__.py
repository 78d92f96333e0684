"""The OpenAI-compatible server: `rerail.server.app.create_app` builds it.

A request's way: middleware (limits, headers), key, policy, worker (lock-step search), record,
response. Text waits until it is accepted; nothing that was not leaves.
"""

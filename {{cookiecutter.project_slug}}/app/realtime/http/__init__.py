"""HTTP beside the WebSocket: health, metrics, the routes of your backend, and `/docs`.

`backend` and `health` have routes, and `dependencies` has what they share. `body` reads requests,
`errors` answers failures, and `asyncapi` describes the protocol.
"""

"""HTTP beside the WebSocket: health, metrics, the routes of your backend, and `/docs`.

`backend` and `health` have routes, `dependencies` what routes depend on, `body` and `errors` how
requests are read and failures answered; `asyncapi` describes the protocol.
"""

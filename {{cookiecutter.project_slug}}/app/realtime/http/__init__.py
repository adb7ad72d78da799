"""HTTP beside the WebSocket: health, metrics, the routes of your backend, and `/docs`."""

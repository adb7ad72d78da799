"""HTTP beside the WebSocket: health, metrics, and the routes of your backend."""

"""Settings of the engine.

`settings` joins them, `environment` reads those in files, and `project` the name and version of the
project. The types of their values are in `app.realtime.fields`.
"""

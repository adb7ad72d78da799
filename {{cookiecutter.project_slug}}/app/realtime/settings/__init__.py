"""Settings of the engine. The types of their values are in `fields`.

`settings` joins them, `environment` reads them, and `project` reads the version of the project.
"""

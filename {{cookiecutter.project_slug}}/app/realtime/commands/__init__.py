"""Commands: how they are registered, validated and answered, and the built-in ones.

`router` registers handlers, `dispatcher` calls them, and `schemas` checks that commands are strict.
`messages` has commands that every service has.
"""

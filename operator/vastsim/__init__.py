"""A Vast.ai simulator: a pure market model, a real HTTP server, machines that really run.

It shares no code with the operator, so that it does not share its misunderstandings.
"""

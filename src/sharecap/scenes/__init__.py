"""The embedded world: pictures whose whole truth is known, a teacher that answers over HTTP, and questions.

A test bed and a demonstration. Nothing outside this room and the command line may import it.
"""

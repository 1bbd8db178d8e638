"""The recall desk: who reads a released file, what becomes of them, and the recall that they wait for.

The desk knows nothing of fanotify or FUSE: a request is an open descriptor, who asks, and where the verdict goes.
"""

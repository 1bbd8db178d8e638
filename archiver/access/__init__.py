"""Between a reader and a released file: fanotify (`archiver-recall`), the protocol it speaks with the daemon, and FUSE.

Nothing here imports torch or SQLAlchemy: the process that answers the kernel must stay small and must not open a file.
"""

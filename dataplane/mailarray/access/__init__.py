"""The access server (patent, figures 3 and 4): mailboxes over POP3, compiled from wherever their messages lie.

Stateless: any number of access servers serve the same mailboxes. The catalog says what is in a mailbox, the
sidecars of the servers hand out the bodies, and expunges are journalled through a writer.
"""

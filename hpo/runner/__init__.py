"""A runner: a child process of a worker that runs trials one after another on one device share."""

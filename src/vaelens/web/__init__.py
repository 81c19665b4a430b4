"""The live local page: a prompt or an upload, VAEs to tick, a queue, and the viewer for what comes out."""

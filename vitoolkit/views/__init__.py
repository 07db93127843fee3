"""What a trace looks like, drawn without a kernel: frames, charts, pictures, reports."""

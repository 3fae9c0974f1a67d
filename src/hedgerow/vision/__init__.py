"""Cameras in front of a detection model: frames → letterbox → the inference server → NMS → detections.

A process of its own beside the server, and a caller of it like any application: it holds the camera and no key of the
fleet, the server holds the key and no camera (docs/decisions/0033-vision.md). One thread reads a camera, one detects.

- What a model cannot keep up with is dropped and counted, never queued: detections are of the newest frame.
- Frames leave this process only by an explicit ``forward`` in the configuration.
"""

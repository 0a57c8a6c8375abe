"""The path of the camera: where the image was on the sensor, and when the three saccades took place."""

#: The path of the image: the displacement of its centre from the sensor's point (13.5, 13.5), in pixels to the right
#: and down, every `PATH_STEP` milliseconds. It was fitted to 100 recordings by least squares. A pixel's ON events minus
#: its OFF events up to time t give the change of its log light since the start. The digit is known, so its position at
#: time t is the only unknown. The positions were then corrected until the simulation reproduced them.
PATH_STEP = 5.0
PATH = (
    (0.51, 1.21), (0.50, 1.26), (0.47, 1.37), (0.44, 1.54), (0.40, 1.77), (0.36, 2.08), (0.33, 2.51),
    (0.32, 3.05), (0.34, 3.64), (0.39, 4.27), (0.47, 4.90), (0.74, 5.47), (1.10, 5.92), (1.42, 6.28),
    (1.75, 6.53), (1.99, 6.64), (2.08, 6.69), (2.13, 6.71), (2.17, 6.68), (2.21, 6.61), (2.26, 6.54),
    (2.31, 6.48), (2.38, 6.45), (2.47, 6.48), (2.58, 6.49), (2.74, 6.44), (3.04, 6.28), (3.40, 5.94),
    (3.74, 5.47), (4.10, 4.93), (4.35, 4.31), (4.46, 3.66), (4.56, 3.08), (4.76, 2.48), (5.03, 1.93),
    (5.22, 1.59), (5.35, 1.40), (5.46, 1.29), (5.53, 1.28), (5.62, 1.34), (5.73, 1.39), (5.87, 1.43),
    (5.98, 1.43), (6.07, 1.39), (6.12, 1.36), (6.08, 1.34), (5.83, 1.33), (5.38, 1.35), (4.90, 1.41),
    (4.42, 1.43), (3.93, 1.40), (3.40, 1.38), (2.81, 1.34), (2.22, 1.29), (1.70, 1.24), (1.33, 1.17),
    (1.06, 1.11), (0.79, 1.08), (0.57, 1.08), (0.45, 1.11), (0.39, 1.13), (0.38, 1.13), (0.38, 1.14),
)  # fmt: skip
#: Limits of the displacement in pixels: `pixels` computes the light only for these.
PATH_LIMITS = (-2.0, 8.5)
#: Start and end of the two pauses between the saccades, ms. During a pause, the delay of one saccade (see
#: `SensorParams.delay`) changes to that of the next.
PAUSES = ((90.0, 115.0), (205.0, 220.0))
#: Starts of the three saccades and end of the last one, ms. A saccade includes the pause after it, so every event
#: belongs to one saccade.
SACCADES = (0.0, 102.0, 216.0, 340.0)
#: Start of each saccade's burst of events, ms: time 0 and the ends of the pauses. Pictures mark the saccades here.
#: (In 800 recordings, the rate of events has made a tenth of its rise from the minimum by 110 ms and by 228 ms.)
BURSTS = (0.0, *(end for _, end in PAUSES))

//! The glommio runtime of Heddle: pinned cores, mesh, O_DIRECT device, clock.

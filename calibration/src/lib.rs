//! Observers, sample sources and calibration of activation ranges

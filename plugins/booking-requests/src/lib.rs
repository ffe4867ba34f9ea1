//! booking-requests

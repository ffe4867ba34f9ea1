//! marketplace-notifications

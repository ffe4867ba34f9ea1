//! `haggle token`.

use std::time::Duration;

use clap::Args;

use super::{ConfigFrom, print};
use crate::{failure::Failure, token};

/// Make a token and print it, alone on one line
///
/// Signs with --secret, else with auth.secret, else with the key that `haggle serve --dev` made in the data directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haggle token ann --data ./data                         for a server started with --dev --data ./data
  haggle token root --role admin --expires 1h            may use the admin API
  TOKEN=$(haggle token ann --secret \"$SECRET\")           with the secret of a production server")]
pub struct TokenArgs {
    /// The user it speaks for
    user: String,
    /// A role; may be given more than once. `admin` and `service` mean something to the server
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How long it is valid: 45s, 30m, 12h, 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = token::parse_life)]
    expires: Duration,
    /// The HS256 secret to sign with
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    #[command(flatten)]
    from: ConfigFrom,
}

pub fn run(args: &TokenArgs) -> Result<(), Failure> {
    let settings = args.from.load()?.settings;
    if args.user.is_empty() || args.user.len() > settings.limits.id_bytes_max {
        return Err(Failure::usage(format!(
            "a user id has 1 to {} bytes (limits.id_bytes_max)",
            settings.limits.id_bytes_max
        )));
    }
    let secret = match &args.secret {
        Some(secret) if secret.is_empty() => return Err(Failure::usage("--secret is empty")),
        Some(secret) => secret.clone(),
        None => token::secret(&settings)?,
    };
    let claims = token::Claims {
        user: args.user.clone(),
        roles: args.roles.clone(),
        life: args.expires,
    };
    print(&token::sign(&claims, &secret, &settings.auth)?);
    Ok(())
}

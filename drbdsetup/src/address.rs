//! Addresses as the control protocol has them (`ipv4:A:P`, `ipv6:[A]:P`), in the shapes the outputs want.

/// An address, split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address<'a> {
    /// `ipv4`, `ipv6` …
    pub family: &'a str,
    /// With brackets and port.
    rest: &'a str,
}

impl<'a> Address<'a> {
    /// Splits; what has no family is taken for ipv4.
    pub fn parse(text: &'a str) -> Address<'a> {
        match text.split_once(':') {
            Some((family, rest)) if family.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                Address { family, rest }
            }
            _ => Address { family: "ipv4", rest: text },
        }
    }

    /// Without brackets and port.
    fn host(self) -> &'a str {
        let host = self.rest.rsplit_once(':').map_or(self.rest, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port; 0 if there is none.
    fn port(self) -> u16 {
        self.rest.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }

    /// As in drbd.conf: `ipv4 A:P`.
    pub fn configuration(self) -> String {
        format!("{} {}", self.family, self.rest)
    }

    /// The three members of a JSON object.
    pub fn json(self, indent: usize) -> String {
        let pad = " ".repeat(indent);
        format!(
            "{pad}\"address\": \"{}\",\n{pad}\"port\": {},\n{pad}\"family\": \"{}\"\n",
            self.host(),
            self.port(),
            self.family
        )
    }
}

//! EXPOSE: `[ip:][host:]port[-end][/protocol]`.

use std::net::IpAddr;

use super::dispatch::value;
use super::node::{Node, Task};
use super::{Refusal, Work};
use crate::error::ErrorKind;
use crate::lint;
use crate::quote::quote;

/// What one port counts for among [`crate::limits::MAX_PLAN_TEXT`]: eleven characters ask for 65,535 of them.
const PORT_COST: usize = 16;

/// What it counts for when it is new: short as it is, each is kept apart in a set.
const NEW_PORT_COST: usize = 240;

impl<'a> Work<'a> {
    pub(super) fn ports(
        &mut self,
        node: &Node<'a>,
        task: &Task<'a>,
        words: &[String],
    ) -> Result<Vec<String>, Refusal> {
        let mut ports = Vec::new();
        for word in words {
            self.guessed |= node.unsure && word.contains('$');
            let list = self
                .expander
                .words_within(word, &node.env, &self.budget)
                .map_err(|cause| (ErrorKind::Expand { word: quote(word), cause: Box::new(cause) }, None))?;
            for raw in list {
                self.port(node, task, &raw, &mut ports)?;
            }
        }
        Ok(ports)
    }

    fn port(
        &mut self,
        node: &Node<'a>,
        task: &Task<'a>,
        raw: &str,
        ports: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let mut parts = raw.rsplitn(3, ':');
        let container = parts.next().unwrap_or("");
        let host = parts.next().unwrap_or("");
        let ip = parts.next().unwrap_or("");
        let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
        if port.is_empty() {
            return Err(value(format!("invalid port: {}: no port specified", quote(raw))));
        }
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        let lower = protocol.to_lowercase();
        if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
            return Err(value(format!("invalid port: {}: invalid proto: {protocol}", quote(raw))));
        }
        if protocol != lower && !self.guessed {
            self.lint(task, &lint::EXPOSE_PROTO_CASING, || {
                format!("Defined protocol '{raw}' in EXPOSE instruction should be lowercase")
            });
        }
        if (!ip.is_empty() || !host.is_empty()) && !self.guessed {
            self.lint(task, &lint::EXPOSE_INVALID_FORMAT, || {
                format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{raw}'"
                )
            });
        }
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
            return Err(value(format!("invalid IP address: {ip}")));
        }
        let (start, end) = range(port).ok_or_else(|| value(format!("invalid containerPort: {port}")))?;
        if !host.is_empty() {
            let (from, to) = range(host).ok_or_else(|| value(format!("invalid hostPort: {host}")))?;
            if end - start != to - from && start != end {
                return Err(value(format!(
                    "invalid ranges specified for container and host Ports: {port} and {host}"
                )));
            }
        }
        self.spend((usize::from(end - start) + 1) * PORT_COST)?;
        let first = ports.len();
        ports.extend((start..=end).map(|port| format!("{port}/{lower}")));
        let known = &node.config.exposed_ports;
        let new = ports.iter().skip(first).filter(|port| !known.contains(*port)).count();
        self.spend(new * NEW_PORT_COST)?;
        Ok(())
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<i64>().ok().and_then(|number| u16::try_from(number).ok());
    let Some((start, end)) = text.split_once('-') else { return number(text).map(|port| (port, port)) };
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end))
}

//! `# check=skip=…;error=…;experimental=…`.

use super::Rule;
use crate::directive;
use crate::instruction::parse_bool;
use crate::quote::quote;
use crate::syntax::Comments;

/// Which rules may speak, and whether that is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    skip: Vec<String>,
    skip_all: bool,
    experimental: Vec<String>,
    experimental_all: bool,
    pub(crate) error: bool,
}

impl Config {
    /// Reads the options.
    ///
    /// # Errors
    ///
    /// With what is wrong with them.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(config);
        }
        for part in text.splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option {}", quote(part)));
            };
            let (key, value) = (key.trim(), value.trim());
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match key {
                "skip" if value == "all" => config.skip_all = true,
                "skip" => config.skip = names(),
                "experimental" if value == "all" => config.experimental_all = true,
                "experimental" => config.experimental = names(),
                "error" => {
                    config.error = parse_bool(value)
                        .ok_or_else(|| format!("failed to parse check option {}", quote(part)))?;
                }
                _ => return Err(format!("invalid check option {}", quote(key))),
            }
        }
        Ok(config)
    }

    /// Whether a rule may speak about an instruction below these comments.
    pub(crate) fn lets(&self, rule: &Rule, comments: &Comments) -> bool {
        self.lets_alone(rule, Self::of_comments(comments).as_ref())
    }

    fn lets_alone(&self, rule: &Rule, local: Option<&Self>) -> bool {
        let any = |test: &dyn Fn(&Self) -> bool| test(self) || local.is_some_and(test);
        if rule.experimental {
            any(&|config| config.experimental_all || config.experimental.iter().any(|name| name == rule.name))
        } else {
            !any(&|config| config.skip_all || config.skip.iter().any(|name| name == rule.name))
        }
    }

    /// The options in the first comment that holds some.
    fn of_comments(comments: &Comments) -> Option<Self> {
        let value = comments.iter().find_map(|comment| {
            let (name, value) = directive::assignment(comment.trim_start())?;
            name.eq_ignore_ascii_case("check").then_some(value)
        })?;
        Self::parse(value.split_once(' ').map_or(value, |(word, _)| word)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let config = Config::parse("skip=A, B;error=true").unwrap();
        assert_eq!(
            (config.skip.as_slice(), config.error),
            (["A".to_owned(), "B".to_owned()].as_slice(), true)
        );
        assert!(Config::parse("bogus").is_err());
        assert!(Config::parse("error=maybe").is_err());
        assert!(Config::parse("skip=all").unwrap().skip_all);
    }
}

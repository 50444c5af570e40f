"""Where alerts are sent to: files, Splunk, Elasticsearch and OpenSearch, webhooks."""

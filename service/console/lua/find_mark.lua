-- Read the last revision of a deployment, whose record may be trimmed by now.
-- KEYS     1 published
-- ARGV     none
-- Returns  the revision as text, or nil
-- Atomic   it is one read.
return redis.call('HGET', KEYS[1], 'revision')

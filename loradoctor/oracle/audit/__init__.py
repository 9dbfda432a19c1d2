"""A merged model that exists, held against base and adapter."""
